{{- /*
The engine profiles that there are: this release's (files/profiles.yaml) and the site's, with what they inherit, as
detinf.engines.catalogue reads them; of each what the chart needs to know. tests/cluster/test_chart.py holds the two
against each other.
*/}}

{{- /* One profile with what it inherits, as JSON. Of: written (by name), name, path (names that led here). */}}
{{- define "detinf.profile" -}}
{{- if has .name .path }}
{{- fail (printf "engine.profiles: profile %s: inherits from itself by way of %s; remove one `inherits`" .name (join ", " .path)) }}
{{- end }}
{{- $content := get .written .name }}
{{- $result := dict "image" "" "refused" list }}
{{- with $content.inherits }}
{{- if not (hasKey $.written .) }}
{{- fail (printf "engine.profiles: profile %s: inherits '%s', which is none of %s" $.name . (keys $.written | sortAlpha | join ", ")) }}
{{- end }}
{{- $result = include "detinf.profile" (dict "written" $.written "name" . "path" (append $.path $.name)) | fromJson }}
{{- end }}
{{- include "detinf.over" (dict "parent" $result "child" $content) }}
{{- end -}}

{{- /* What a profile says over what it inherits, as JSON: refused values replace those of their field. */}}
{{- define "detinf.over" -}}
{{- $result := pick .parent "image" "usesDevices" }}
{{- range $key := list "image" "usesDevices" }}
{{- if hasKey $.child $key }}{{ $_ := set $result $key (get $.child $key) }}{{ end }}
{{- end }}
{{- $own := dict }}
{{- range .child.refused }}{{ $_ := set $own .field . }}{{ end }}
{{- $refused := list }}
{{- if or (not (hasKey .child "refused")) .child.refused }}
{{- range .parent.refused }}{{ $refused = append $refused (get $own .field | default .) }}{{ $_ := unset $own .field }}{{ end }}
{{- end }}
{{- range .child.refused }}{{ if hasKey $own .field }}{{ $refused = append $refused . }}{{ end }}{{ end }}
{{- $kept := list }}
{{- $remove := .child.remove | default list }}
{{- range $refused }}{{ if not (has .field $remove) }}{{ $kept = append $kept . }}{{ end }}{{ end }}
{{- set $result "refused" $kept | toJson }}
{{- end -}}

{{- /* All profiles that a resource can name, by name, as JSON; it fails where the values name others. */}}
{{- define "detinf.profiles" -}}
{{- $shipped := .Files.Get "files/profiles.yaml" | fromYaml }}
{{- $written := deepCopy $shipped }}
{{- range .Values.engine.profiles }}
{{- if eq (.inherits | default "") .name }}
{{- if not (hasKey $shipped .name) }}
{{- fail (printf "engine.profiles: profile %s: inherits from itself, and this release has none of that name" .name) }}
{{- end }}
{{- $ours := include "detinf.profile" (dict "written" $shipped "name" .name "path" list) | fromJson }}
{{- $_ := set $written .name (include "detinf.over" (dict "parent" $ours "child" .) | fromJson) }}
{{- if .abstract }}{{ $_ := set (get $written .name) "abstract" true }}{{ end }}
{{- else }}
{{- $_ := set $written .name . }}
{{- end }}
{{- end }}
{{- $profiles := dict }}
{{- range $name, $content := $written }}
{{- if not $content.abstract }}
{{- $_ := set $profiles $name (include "detinf.profile" (dict "written" $written "name" $name "path" list) | fromJson) }}
{{- end }}
{{- end }}
{{- range $name := append (keys .Values.engine.images) .Values.engine.defaultProfile }}
{{- if and $name (not (hasKey $profiles $name)) }}
{{- fail (printf "engine profile '%s' is unknown; there are %s: correct the chart's engine.defaultProfile and engine.images" $name (keys $profiles | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- toJson $profiles }}
{{- end -}}
