# Verbatim in a container. Everything but the archive may be read-only:
#
#   docker build -t verbatim .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#     -p 127.0.0.1:8787:8787 -p 127.0.0.1:8788:8788 -v verbatim:/data/archive verbatim
#
# The base is pinned by tag. Whoever needs the same bytes for ever adds the digest that `docker buildx imagetools inspect` names,
# to both lines that begin with FROM.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The locked wheels first: this layer changes only when the lock does.
COPY requirements.lock ./
RUN python -m venv /opt/verbatim \
    && /opt/verbatim/bin/pip install --only-binary :all: --require-hashes -r requirements.lock

# Then the project, without a network, and without what only made its wheel.
COPY pyproject.toml README.md LICENSE ./
COPY archive archive
COPY dashboard dashboard
COPY gateway gateway
RUN /opt/verbatim/bin/pip install --no-index --no-deps --no-build-isolation . \
    && /opt/verbatim/bin/pip uninstall --yes editables hatchling packaging pathspec pip pluggy tomlkit trove-classifiers


FROM python:3.13-slim

# PYTHONSAFEPATH: nothing is imported from the working folder. The wheels were compiled when they were installed, so a read-only root
# costs no start-up time. The addresses are the container's own; `docker run -p` decides who outside reaches them.
ENV PATH=/opt/verbatim/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VERBATIM_HOST=0.0.0.0 \
    VERBATIM_VIEWER_HOST=0.0.0.0 \
    VERBATIM_ARCHIVE=/data/archive

COPY --from=build /opt/verbatim /opt/verbatim
# A number, not a name: Kubernetes' runAsNonRoot reads it. A new volume takes the folder's owner and mode.
RUN install -d -o 10001 -g 10001 -m 0700 /data/archive
USER 10001:10001
WORKDIR /data
VOLUME ["/data/archive"]
EXPOSE 8787 8788
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", "import http.client, os, sys; gateway = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('VERBATIM_PORT', '8787')), timeout=2); gateway.request('GET', '/_verbatim/health'); sys.exit(gateway.getresponse().status != 200)"]

# Exec form: SIGTERM reaches the gateway itself, which then drains.
ENTRYPOINT ["verbatim"]
CMD ["serve"]
