"""Papers as experiments: the only place where names become objects."""
