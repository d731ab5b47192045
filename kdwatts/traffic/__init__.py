"""What users ask of a service: logs of requests, and what they say of rates and lengths."""
