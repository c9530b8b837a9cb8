# The app of docker-compose.yml: on CPUs, for which the student's ONNX exports are made.
FROM python:3.12-slim
WORKDIR /app
COPY constraints.txt /tmp/constraints.txt
# torch alone and first: PIP_OPTIONS can name an index with its build for CPUs, which is a tenth of the other's size.
ARG PIP_OPTIONS=""
RUN pip install --no-cache-dir $PIP_OPTIONS "$(grep '^torch==' /tmp/constraints.txt)"
COPY . /tmp/source
RUN pip install --no-cache-dir -c /tmp/constraints.txt "/tmp/source[files,serve,onnx]" && rm -r /tmp/source
RUN useradd --create-home retort
USER retort
EXPOSE 1416
HEALTHCHECK CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:1416/ready')"
ENTRYPOINT ["retort"]
