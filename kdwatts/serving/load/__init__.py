"""What is sent, and when: arrivals, lengths, prompts."""
