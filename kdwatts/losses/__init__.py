"""Distillation losses as pure tensor functions; nothing here knows of models or configuration."""
