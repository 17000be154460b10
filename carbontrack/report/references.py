"""The publications that the figures of a report rest on, as a bibliography needs them.

Addresses are those of the publishers' own pages; a year is the edition's that was used.
"""

from __future__ import annotations

import re

from carbontrack.values import NamedTuple


class Reference(NamedTuple):
    """A publication.

    Attributes:
        key: how it is cited.
        author: as BibTeX has it: names, or an organisation in braces.
        title, year, url: of the edition that was used; None is unknown.
        note: the edition, the licence, or by whom it was processed.
        doi: None where there is none.
    """

    key: str
    author: str
    title: str
    year: int | None
    url: str | None
    note: str = ""
    doi: str | None = None


_CODECARBON = Reference(
    "codecarbon",
    "{CodeCarbon contributors}",
    "CodeCarbon: data on electricity and hardware",
    2026,
    "https://github.com/mlco2/codecarbon",
    "Release 3.3.2, MIT licence",
)
_EGRID = (
    "{US Environmental Protection Agency}",
    "https://www.epa.gov/egrid",
)
_ALL = (
    Reference(
        "ember2026",
        "{Ember} and {Our World in Data}",
        "Yearly Electricity Data, processed by Our World in Data",
        2026,
        "https://ember-energy.org/data/yearly-electricity-data/",
        "CC BY 4.0. Lifecycle carbon intensity of electricity generation",
    ),
    Reference(
        "nga2026",
        "{Department of Climate Change, Energy, the Environment and Water, Australia}",
        "National Greenhouse Accounts Factors",
        2026,
        "https://www.dcceew.gov.au/climate-change/publications/national-greenhouse-accounts-factors",
        "Table 1. CC BY 4.0",
    ),
    Reference(
        "google2024",
        "{Google LLC}",
        "Carbon data of Google Cloud regions",
        2024,
        "https://github.com/GoogleCloudPlatform/region-carbon-info",
        "Apache-2.0",
    ),
    Reference(
        "eccc2026",
        "{Environment and Climate Change Canada}",
        "Emission factors and reference values, version 4.0",
        2026,
        "https://www.canada.ca/en/environment-climate-change/services/climate-change/"
        "pricing-pollution-how-it-will-work/output-based-pricing-system/"
        "federal-greenhouse-gas-offset-system/emission-factors-reference-values.html",
        "Table 5.4. Open Government Licence - Canada",
    ),
    Reference(
        "ipcc2014",
        "{Intergovernmental Panel on Climate Change}",
        "Climate Change 2014: Mitigation of Climate Change. Annex III, Table A.III.2",
        2014,
        "https://www.ipcc.ch/report/ar5/wg3/",
    ),
    Reference(
        "mee2025",
        "{Ministry of Ecology and Environment and National Bureau of Statistics, China}",
        "2023 emission factors of electricity, Announcement 2025 No. 47, Table 3",
        2025,
        "https://www.mee.gov.cn/",
        "Read in the data of CodeCarbon 3.3.2",
    ),
    _CODECARBON,
    Reference(
        "egrid2024",
        _EGRID[0],
        "eGRID2024: Emissions and Generation Resource Integrated Database",
        2026,
        _EGRID[1],
        "Emission Factors Hub of 26 May 2026, read in one transcription. US public domain",
    ),
    Reference(
        "egrid2023",
        _EGRID[0],
        "eGRID2023: Emissions and Generation Resource Integrated Database",
        2025,
        _EGRID[1],
        "US public domain",
    ),
    Reference(
        "eea2026",
        "{European Environment Agency}",
        "Greenhouse gas emission intensity of electricity generation, country level",
        2026,
        "https://www.eea.europa.eu/en/analysis/indicators/greenhouse-gas-emission-intensity-of-1",
        "CC BY 4.0",
    ),
    Reference(
        "desnz2026",
        "{Department for Energy Security and Net Zero, United Kingdom}",
        "Greenhouse gas reporting: conversion factors",
        2026,
        "https://www.gov.uk/government/collections/government-conversion-factors-for-company-reporting",
        "Open Government Licence v3.0",
    ),
    Reference(
        "cea2025",
        "{Central Electricity Authority, Government of India}",
        "CO2 Baseline Database for the Indian Power Sector, version 21.0",
        2025,
        "https://cea.nic.in/cdm-co2-baseline-database/",
    ),
    Reference(
        "electricitymaps",
        "{Electricity Maps}",
        "Carbon intensity of electricity, live",
        None,
        "https://www.electricitymaps.com/",
    ),
    Reference(
        "watttime", "{WattTime}", "Emissions of electricity, live", None, "https://watttime.org/"
    ),
    Reference(
        "eia",
        "{US Energy Information Administration}",
        "Hourly Electric Grid Monitor",
        None,
        "https://www.eia.gov/opendata/",
    ),
    Reference(
        "energycharts",
        "{Fraunhofer ISE}",
        "Energy-Charts",
        None,
        "https://www.energy-charts.info/",
    ),
    Reference(
        "ukcarbonintensity",
        "{National Energy System Operator}",
        "Carbon Intensity API, Great Britain",
        None,
        "https://carbonintensity.org.uk/",
        "CC BY 4.0",
    ),
    Reference(
        "boavizta2021",
        "{Boavizta}",
        "How to evaluate server manufacturing footprint, beyond greenhouse gas emissions?",
        2021,
        "https://boavizta.org/en/blog/empreinte-de-la-fabrication-d-un-serveur",
        "With constants of Green Cloud Computing, Umweltbundesamt, Texte 94/2021",
    ),
    Reference(
        "davy2021",
        "Davy, Benjamin",
        "Building an AWS EC2 Carbon Emissions Dataset",
        2021,
        "https://medium.com/teads-engineering/"
        "building-an-aws-ec2-carbon-emissions-dataset-3f0fd76c98ac",
        "Teads Engineering; as used by Cloud Carbon Footprint",
    ),
    Reference(
        "ademe2026",
        "Lees-Perasso and Ekchajzer and Roussilhe and De Latour",
        "Life cycle assessments of GPUs for artificial intelligence",
        2026,
        "https://data.hubblo.org/gpu/doc",
        "ADEME",
    ),
    Reference(
        "nvidia2025",
        "{NVIDIA Corporation}",
        "HGX H100 and HGX B200: Product Carbon Footprint Summaries",
        2025,
        "https://images.nvidia.com/aem-dam/Solutions/documents/HGX-H100-PCF-Summary.pdf",
    ),
    Reference(
        "ecodiag2021",
        "{CNRS EcoInfo}",
        "EcoDiag: emission factors of digital equipment",
        2021,
        "https://ecoinfo.cnrs.fr/ecodiag-calcul/",
    ),
    Reference(
        "specpower2008",
        "{Standard Performance Evaluation Corporation}",
        "SPECpower_ssj2008: published results",
        2008,
        "https://www.spec.org/power_ssj2008/results/",
    ),
    Reference(
        "eco2ai2022",
        "{Eco2AI contributors}",
        "Eco2AI: list of processors",
        2022,
        "https://github.com/sb-ai-lab/Eco2AI",
        "Apache-2.0",
    ),
    Reference(
        "greenalgorithms2021",
        "Lannelongue, Loïc and Grealey, Jason and Inouye, Michael",
        "Green Algorithms: Quantifying the Carbon Footprint of Computation",
        2021,
        "https://doi.org/10.1002/advs.202100707",
        "CC BY 4.0",
        "10.1002/advs.202100707",
    ),
    Reference(
        "macknick2012",
        "Macknick, Jordan and Newmark, Robin and Heath, Garvin and Hallett, K. C.",
        "Operational water consumption and withdrawal factors for electricity generating "
        "technologies: a review of existing literature",
        2012,
        "https://doi.org/10.1088/1748-9326/7/4/045802",
        "Environmental Research Letters 7, 045802",
        "10.1088/1748-9326/7/4/045802",
    ),
)
BY_KEY = {reference.key: reference for reference in _ALL}
_INTENSITY = (
    (r"^Ember\b|\bEmber US\b", "ember2026"),
    (r"\bDCCEEW\b", "nga2026"),
    (r"region-carbon-info", "google2024"),
    (r"\bECCC\b", "eccc2026"),
    (r"\bIPCC AR5\b", "ipcc2014"),
    (r"^MEE & NBS\b", "mee2025"),
    (r"^codecarbon\b|\(codecarbon|via codecarbon|x codecarbon", "codecarbon"),
    (r"\beGRID2024\b", "egrid2024"),
    (r"\beGRID2023\b|\beGRID US 2023\b", "egrid2023"),
    (r"^EEA\b", "eea2026"),
    (r"\bDESNZ\b", "desnz2026"),
    (r"^CEA\b", "cea2025"),
    (r"^Electricity Maps\b", "electricitymaps"),
    (r"^WattTime\b", "watttime"),
    (r"^US EIA\b", "eia"),
    (r"^Energy-Charts\b", "energycharts"),
    (r"^UK Carbon Intensity\b", "ukcarbonintensity"),
)
"""How the text of a source of carbon intensity names a publication."""


def of_intensity(source: str) -> list[Reference]:
    """The publications that the text of a source of carbon intensity names."""
    return [BY_KEY[key] for pattern, key in _INTENSITY if re.search(pattern, source)]
