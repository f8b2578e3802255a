"""Messages between hook, plugin, launcher, agent and clients; standard library only, CPython 3.9 on."""
