"""The samplers of keras-sd, one file a method, found through their entry points only."""
