# The operator as an image: docker build -t agentmetal .
# A release names both by digest:  docker build --build-arg PYTHON=python@sha256:... ; `make sbom` goes with it.
ARG PYTHON=python:3.11-slim-bookworm
FROM ${PYTHON} AS build
# The tool by version; everything that the tool installs by hash (SECURITY.md says what is left).
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /source
# The dependencies change less often than the source: a layer of their own, with the hashes of uv.lock.
COPY pyproject.toml uv.lock ./
RUN uv venv /opt/agentmetal \
 && uv export --locked --no-dev --no-emit-project --output-file /tmp/requirements.txt \
 && uv pip install --python /opt/agentmetal --require-hashes --requirement /tmp/requirements.txt
COPY . .
RUN uv build --wheel --out-dir /tmp/wheel \
 && uv pip install --python /opt/agentmetal --no-deps /tmp/wheel/*.whl

FROM ${PYTHON}
# The image's Python is at the same place in both stages, so the environment moves as it is.
COPY --from=build /opt/agentmetal /opt/agentmetal
# asyncssh wants a local user name, and the number below has no entry in passwd.
ENV PATH=/opt/agentmetal/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LOGNAME=agentmetal
USER 65532:65532
ENTRYPOINT ["agentmetal"]
CMD ["run"]
