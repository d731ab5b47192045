"""Servers: started, waited for, stopped with all that they started, or found running."""
