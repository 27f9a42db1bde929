"""A model's life: training it and logging it with MLflow."""
