-- Several models may be active: search asks all of them.
DROP INDEX embedding_models_active;
