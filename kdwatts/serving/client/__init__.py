"""The process that sends requests and writes down when the answers came."""
