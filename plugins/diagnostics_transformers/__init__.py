"""transformers' models as encoders of any modality: `hf:DIRECTORY_OR_ID`."""
