"""A plug-in with small models that prove the contract: what the trainer, checkpoint, sampler and evaluation must carry."""
