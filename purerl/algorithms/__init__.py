"""The learning algorithms, one file each. They share the modules below them and never import each other."""
