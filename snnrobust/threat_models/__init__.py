"""What an attacker may change, and an independent check that an example keeps to it."""
