"""The base models that SFT starts from: pre-trained here, shipped with the project, or downloaded."""
