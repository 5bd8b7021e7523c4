"""ONNX files as encoders: `onnx:FILE`."""
