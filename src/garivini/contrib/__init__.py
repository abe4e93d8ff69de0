"""Parts for frameworks, each of which needs its framework: ``django``."""
