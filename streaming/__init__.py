"""The stream's side of the Lambda function: the Kinesis envelope, delivery and what operators see."""
