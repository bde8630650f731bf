"""What an attack pushes upwards, one value per sample."""
