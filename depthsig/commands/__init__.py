"""What depthsig does, a function each: the command line and Python call the same ones."""
