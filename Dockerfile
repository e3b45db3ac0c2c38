# One image for every part of docker-compose.yml; docs/containers.md explains both.
# BASE is any Debian or Ubuntu with Python 3.11 or later and its venv module.
ARG BASE=python:3.12-slim-bookworm

# Compiled, by a compiler that the image itself does not need.
FROM ${BASE} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      gcc libc6-dev $([ "$(command -v python3)" != /usr/bin/python3 ] || echo python3-dev)
COPY pyproject.toml README.md LICENSE /usr/src/syncd/
COPY scripts/hatch_build.py /usr/src/syncd/scripts/
COPY syncd /usr/src/syncd/syncd
RUN python3 -m venv /opt/syncd \
 && SYNCD_COMPILE=require /opt/syncd/bin/pip install \
      --no-cache-dir --disable-pip-version-check /usr/src/syncd

FROM ${BASE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      conntrack iproute2 keepalived nftables procps \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/syncd /opt/syncd
ENV PATH=/opt/syncd/bin:$PATH PYTHONUNBUFFERED=1

COPY scripts/syncd-failover /usr/sbin/
COPY scripts/transfer conf/compose/firewall /usr/local/bin/
COPY conf/compose/syncd.toml conf/compose/rules.nft conf/keepalived/gate.nft /etc/syncd/
COPY conf/keepalived/keepalived-fw1.conf conf/keepalived/keepalived-fw2.conf \
     /etc/keepalived/

CMD ["syncd", "run"]
