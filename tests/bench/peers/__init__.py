"""Every supervisor that is measured, by name. A further one: a subclass of `Peer`, and its name here."""
from .native import Dinit, Runit, S6, S6rc, Systemd
from .ours import Floor, FloorSplice, Ringrift, RingriftZstd
from .others import Circus, Horust, Pm2, Supervisord, Zinit

PEERS = {peer.name: peer for peer in (Ringrift, RingriftZstd, Floor, FloorSplice, Dinit, S6, S6rc, Runit, Systemd, Supervisord, Horust,
                                      Zinit, Circus, Pm2)}
