"""Loss landscapes of spiking networks, for `snnrobust`: curvature by named operator, slices, sharpness."""
