# jaxresnet with the tested versions:
#   docker build -t jaxresnet .
#   docker run --rm -v "$PWD:/work" jaxresnet predict cat.jpg
FROM python:3.11-slim
WORKDIR /opt/jaxresnet
COPY . .
RUN pip install --no-cache-dir --constraint requirements.lock .
WORKDIR /work
ENV XDG_CACHE_HOME=/work/.cache TFDS_DATA_DIR=/work/tensorflow_datasets
ENTRYPOINT ["jaxresnet"]
CMD ["--help"]
