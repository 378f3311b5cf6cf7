# For an NVIDIA GPU: docker build -t dreamfusion . && docker run --gpus all -v "$PWD":/work dreamfusion \
#   train "a corgi"
FROM python:3.11-slim
RUN useradd --create-home user && mkdir /work && chown user /work
COPY . /src
# The CUDA build of torch comes from PyPI. The source is not needed once it is installed.
RUN pip install --no-cache-dir '/src[lora,usd,print]' && rm -rf /src
USER user
WORKDIR /work
# Models from the hub are kept here: mount a volume to keep them.
ENV HF_HOME=/work/.cache/huggingface
ENTRYPOINT ["dreamfusion"]
CMD ["--help"]
