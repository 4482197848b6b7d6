"""What answers a request: scripted policies, a model, the CNN, a model over HTTP."""
