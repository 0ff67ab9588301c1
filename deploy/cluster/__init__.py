"""A whole Kubernetes on one machine, to try the product on and to test against: real programs, no images fetched.

Inside: compiling the programs from pinned modules (``programs``), the addresses and paths of one cluster (``layout``),
its keys and certificates (``credentials``), what each program is told (``config/``, ``commands``), the first process of
its namespaces (``node``), and the door to all of it (``cluster``). Not inside: the images that pods run, see
``deploy.images``.
"""
