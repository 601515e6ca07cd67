"""A plug-in with small models that prove the contract: what trainer, checkpoint, sampler, evaluation must carry."""
