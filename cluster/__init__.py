"""Many nodes: launcher, trading agents, drills, bench and the ``gridpact`` command."""
