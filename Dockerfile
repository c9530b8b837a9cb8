# The app of docker-compose.yml: it runs exported students, without torch.
FROM python:3.12-slim
WORKDIR /app
COPY constraints.txt /tmp/constraints.txt
COPY . /tmp/source
RUN pip install --no-cache-dir -c /tmp/constraints.txt "/tmp/source[files,images,serve]" && rm -r /tmp/source
RUN useradd --create-home retort
USER retort
EXPOSE 1416
HEALTHCHECK CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:1416/ready')"
ENTRYPOINT ["retort"]
