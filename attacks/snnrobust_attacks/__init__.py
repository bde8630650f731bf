"""Attacks, gradient estimators and corruptions for `snnrobust`; each is found through its entry point."""
