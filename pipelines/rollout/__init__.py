"""The canary of an InferenceService: deployed dark, judged, stepped, promoted or rolled back."""
