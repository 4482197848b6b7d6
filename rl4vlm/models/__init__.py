"""The vision-language model: loading, encoding, generating and scoring; and the CNN of CNN+RL."""
