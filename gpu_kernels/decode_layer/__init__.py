"""One whole decode layer of a Llama in W4A8KV4, made of this folder's neighbours."""
