"""`python -m agentmetal`: the command line."""

from agentmetal.cli.main import main

if __name__ == "__main__":
    main()
