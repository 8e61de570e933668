"""Published models that no library saves like this: a checkpoint of each becomes a model of a known family."""
