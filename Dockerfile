# docker build -t mara .
# docker run --rm -it --gpus all -v "$PWD/runs:/mara/runs" mara mara llm transform=mara
# Another build of torch (docs/install.md): docker build --build-arg TORCH="torch==2.13.0 --index-url URL" -t mara .
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
WORKDIR /mara
COPY Makefile pyproject.toml constraints.txt README.md LICENSE ./
COPY tools tools
COPY hydra_plugins hydra_plugins
COPY conf conf
COPY core core
COPY launch launch
COPY didactic didactic
COPY llm llm
COPY chem chem
ARG TORCH=""
ARG EXTRAS="slurm,lora,data,evaluation,smollm2,chem,genetic,docking,synthesis,qsar,reports,tracking"
RUN make venv TORCH="$TORCH" EXTRAS="$EXTRAS" && rm -rf /root/.cache
ENV PATH="/mara/.venv/bin:$PATH"
CMD ["mara", "--help"]
