{{- /* The controller's settings: the file that detinf.controller.settings reads. */}}
{{- define "detinf.config" -}}
{{- /* It fails where the values name a profile that is not there. */ -}}
{{- $_ := include "detinf.profiles" . -}}
probeImage: {{ include "detinf.image" .Values.image.probe | quote }}
imagePullPolicy: {{ toJson .Values.image.pullPolicy }}
imagePullSecrets: {{ toJson .Values.image.pullSecrets }}
defaultProfile: {{ toJson .Values.engine.defaultProfile }}
profileImages: {{ toJson .Values.engine.images }}
profiles: {{ toJson .Values.engine.profiles }}
nodeLabels: {{ toJson .Values.topology.nodeLabels }}
readNodes: {{ toJson .Values.topology.readNodes }}
hostPathPrefixes: {{ toJson .Values.models.hostPathPrefixes }}
soloIntervalSeconds: {{ toJson .Values.probe.soloIntervalSeconds }}
widthIntervalSeconds: {{ toJson .Values.probe.widthIntervalSeconds }}
staleAfterSeconds: {{ toJson .Values.probe.staleAfterSeconds }}
gateTimeoutSeconds: {{ toJson .Values.probe.gateTimeoutSeconds }}
{{- end -}}
