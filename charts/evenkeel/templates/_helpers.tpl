{{- /* Made by `evenkeel chart`; do not edit. */ -}}
{{- define "evenkeel.groups" -}}
{{- $groups := list }}
{{- range list "delivery" "slo" }}
{{- if has . $.Values.only }}{{ $groups = append $groups . }}{{ end }}
{{- end }}
{{- join "-" $groups }}
{{- end }}

{{- define "evenkeel.name" -}}
{{- $name := "evenkeel" }}
{{- with include "evenkeel.groups" . }}{{ $name = printf "%s-%s" $name . }}{{ end }}
{{- if and .Values.watchNamespace (ne .Values.watchNamespace .Release.Namespace) }}
{{- $name = printf "%s-ns-%s" $name .Values.watchNamespace }}
{{- end }}
{{- if gt (len $name) 52 }}
{{- fail (printf "%s is too long a name: install into the namespace that is watched" $name) }}
{{- end }}
{{- $name }}
{{- end }}

{{- define "evenkeel.role" -}}
evenkeel-{{ .Release.Namespace }}{{ with include "evenkeel.groups" . }}:{{ . }}{{ end }}
{{- end }}
