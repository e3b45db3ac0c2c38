# One image for every part of docker-compose.yml; docs/containers.md explains both.
# BASE is any Debian or Ubuntu with Python 3.11 or later and its venv module.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      conntrack iproute2 keepalived nftables procps \
 && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /usr/src/syncd/
COPY syncd /usr/src/syncd/syncd
RUN python3 -m venv /opt/syncd \
 && /opt/syncd/bin/pip install --no-cache-dir --disable-pip-version-check /usr/src/syncd
ENV PATH=/opt/syncd/bin:$PATH PYTHONUNBUFFERED=1

COPY scripts/syncd-failover /usr/sbin/
COPY scripts/transfer conf/compose/firewall /usr/local/bin/
COPY conf/compose/syncd.toml conf/compose/rules.nft conf/keepalived/gate.nft /etc/syncd/
COPY conf/keepalived/keepalived-fw1.conf conf/keepalived/keepalived-fw2.conf \
     /etc/keepalived/

CMD ["syncd", "run"]
