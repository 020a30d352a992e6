"""An application of the project: pictures and their widths."""
