-- When a worker last worked for a model: a queue that nobody works off can be told.
ALTER TABLE embedding_models ADD COLUMN worked_at timestamptz;
