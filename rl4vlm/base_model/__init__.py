"""The base models that warm starts begin with: pre-trained here, shipped or downloaded."""
