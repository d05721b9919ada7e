# Images of detinf: --target controller | probe | simulated-engine.
# The base is an argument: any Debian 12 with Python 3.11, such as python:3.11-slim-bookworm.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
# Dependencies first, each set from its hashed lock, into a folder: no pip, no venv and no compiler reaches the result.
RUN python3 -m venv /build
COPY requirements/probe.txt /locks/probe.txt
RUN /build/bin/pip install -q --require-hashes --only-binary :all: --target /site/probe -r /locks/probe.txt
COPY requirements/controller.txt /locks/controller.txt
RUN /build/bin/pip install -q --require-hashes --only-binary :all: --target /site/controller -r /locks/controller.txt
COPY requirements/sim.txt /locks/sim.txt
RUN /build/bin/pip install -q --require-hashes --only-binary :all: --target /site/sim -r /locks/sim.txt
COPY operator/detinf /source/detinf
COPY operator/detinf_sim /source/detinf_sim
# Each image has the layers that its process imports, and no others: what is not there cannot be run.
RUN for target in controller probe; do \
      mkdir -p /app/$target/detinf \
      && cp /source/detinf/__init__.py /app/$target/detinf/ \
      && for layer in api documents engines topology guard; do cp -r /source/detinf/$layer /app/$target/detinf/; done; \
    done \
 && cp -r /source/detinf/controller /source/detinf/cluster /app/controller/detinf/ \
 && cp -r /source/detinf/probe /app/probe/detinf/ \
 && mkdir -p /app/sim/detinf && cp -r /source/detinf_sim /app/sim/ \
 && cp /source/detinf/__init__.py /app/sim/detinf/ && cp -r /source/detinf/guard /app/sim/detinf/ \
 && python3 -m compileall -q -j 0 /app /site

FROM ${BASE} AS base
# What a base brings to build with has no place in what runs.
RUN rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/site-packages/setuptools* \
      /usr/local/lib/python3*/site-packages/wheel* /usr/local/bin/pip* /usr/lib/python3/dist-packages/pip* \
      /usr/lib/python3/dist-packages/setuptools* /usr/share/python-wheels /usr/lib/python3*/ensurepip \
      /usr/local/lib/python3*/ensurepip
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
LABEL org.opencontainers.image.source="https://detinf.io" org.opencontainers.image.licenses="Apache-2.0"

FROM base AS controller
COPY --from=builder /site/controller /opt/detinf/site
COPY --from=builder /app/controller /opt/detinf/app
ENV PYTHONPATH=/opt/detinf/app:/opt/detinf/site
LABEL org.opencontainers.image.title="detinf controller"
ENTRYPOINT ["python3", "-m", "detinf.controller"]

FROM base AS probe
COPY --from=builder /site/probe /opt/detinf/site
COPY --from=builder /app/probe /opt/detinf/app
ENV PYTHONPATH=/opt/detinf/app:/opt/detinf/site
LABEL org.opencontainers.image.title="detinf probe and guard"
ENTRYPOINT ["python3", "-m", "detinf.probe"]

FROM base AS simulated-engine
COPY --from=builder /site/sim /opt/detinf/site
COPY --from=builder /app/sim /opt/detinf/app
COPY tools/cluster/images/vllm /usr/local/bin/vllm
# Behind the guard PYTHONPATH is set anew; a .pth file finds the packages whatever it is.
USER 0
RUN chmod 755 /usr/local/bin/vllm \
 && site=$(python3 -c "import site; print(site.getsitepackages()[0])") && mkdir -p "$site" \
 && printf '/opt/detinf/app\n/opt/detinf/site\n' > "$site/detinf.pth"
USER 65532:65532
LABEL org.opencontainers.image.title="detinf simulated engine (tests and demo only)"
ENTRYPOINT ["vllm"]
