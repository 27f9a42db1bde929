"""What the consumer costs, beside common practice and beside a floor."""
