"""How gradients pass a spike: other derivatives, swapped in for a while and taken out again."""
