{{- /* The controller's settings: the file that detinf.controller.settings reads, and that files/... of this chart holds
       the values against. */}}
{{- define "detinf.config" -}}
probeImage: {{ include "detinf.image" .Values.image.probe | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
imagePullSecrets: {{ toJson .Values.image.pullSecrets }}
defaultProfile: {{ .Values.engine.defaultProfile | quote }}
profileImages: {{ toJson .Values.engine.images }}
profiles: {{ toJson .Values.engine.profiles }}
nodeLabels: {{ toJson .Values.topology.nodeLabels }}
hostPathPrefixes: {{ toJson .Values.models.hostPathPrefixes }}
soloIntervalSeconds: {{ int .Values.probe.soloIntervalSeconds }}
widthIntervalSeconds: {{ int .Values.probe.widthIntervalSeconds }}
staleAfterSeconds: {{ int .Values.probe.staleAfterSeconds }}
gateTimeoutSeconds: {{ int .Values.probe.gateTimeoutSeconds }}
{{- end -}}
