import com.helger.diver.api.coord.DVRCoordinate;
import com.helger.io.resource.FileSystemResource;
import com.helger.phive.api.execute.ValidationExecutionManager;
import com.helger.phive.api.executorset.ValidationExecutorSetRegistry;
import com.helger.phive.api.result.ValidationResultList;
import com.helger.phive.api.validity.IValidityDeterminator;
import com.helger.phive.en16931.EN16931Validation;
import com.helger.phive.xml.source.IValidationSourceXML;
import com.helger.phive.xml.source.ValidationSourceXML;
import com.helger.phive.xrechnung.XRechnungValidation;
import com.helger.phive.zugferd.ZugferdValidation;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.TreeMap;
import java.util.stream.Stream;

/** Puts every XML of a directory before the rules that the other side may use; ends with 1 if any is broken. */
public final class Validate {
    private final ValidationExecutorSetRegistry<IValidationSourceXML> rules = new ValidationExecutorSetRegistry<>();
    private final TreeMap<String, Integer> passed = new TreeMap<>();
    private final List<String> wrong = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        Validate validate = new Validate();
        EN16931Validation.initEN16931(validate.rules);
        ZugferdValidation.initZugferd(validate.rules);
        XRechnungValidation.initXRechnung(validate.rules);
        List<Path> files;
        try (Stream<Path> found = Files.list(Path.of(arguments[0]))) {
            files = found.filter(file -> file.toString().endsWith(".xml")).sorted().toList();
        }
        for (Path file : files) {
            validate.file(file);
        }
        validate.passed.forEach((validator, count) -> System.out.println(validator + ": " + count + " passed"));
        validate.wrong.forEach(System.out::println);
        if (validate.passed.isEmpty()) {
            System.out.println(arguments[0] + " holds no sample");
        }
        System.exit(validate.wrong.isEmpty() && !validate.passed.isEmpty() ? 0 : 1);
    }

    private void file(Path file) {
        invoice("CEN EN 16931", file, EN16931Validation.VID_CII_1315);
        if (file.getFileName().toString().contains("xrechnung")) {
            invoice("XRechnung 3.0.2", file, XRechnungValidation.VID_XRECHNUNG_CII_302);
        } else {
            invoice("ZUGFeRD 2.4", file, ZugferdValidation.VID_ZUGFERD_2_4_EN16931);
        }
    }

    private void invoice(String validator, Path file, DVRCoordinate rule) {
        IValidationSourceXML source = ValidationSourceXML.create(new FileSystemResource(file.toFile()));
        ValidationResultList results = ValidationExecutionManager.executeValidation(
                IValidityDeterminator.createDefault(), rules.getOfID(rule), source, Locale.US);
        List<String> broken = new ArrayList<>();
        results.getAllErrors().forEach(error ->
                broken.add(error.getErrorID() + " " + error.getErrorText(Locale.US)));
        told(validator, file, broken);
    }

    private void told(String validator, Path file, List<String> broken) {
        if (broken.isEmpty()) {
            passed.merge(validator, 1, Integer::sum);
        }
        broken.forEach(one -> wrong.add(file.getFileName() + ": " + validator + ": " + one));
    }
}
