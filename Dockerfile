# jaxresnet with the tested versions:
#   docker build -t jaxresnet .
#   docker run --rm -v "$PWD:/data" jaxresnet predict cat.jpg
FROM python:3.11-slim
WORKDIR /opt/jaxresnet
COPY . .
RUN pip install --no-cache-dir --constraint requirements.lock .
WORKDIR /data
ENV XDG_CACHE_HOME=/data/.cache TFDS_DATA_DIR=/data/tensorflow_datasets
ENTRYPOINT ["jaxresnet"]
CMD ["--help"]
