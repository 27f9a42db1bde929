"""Tests of the Lambda function and of the modules that only it uses."""
