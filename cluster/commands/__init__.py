"""The commands of ``gridpact``, one module each, imported only when called."""
